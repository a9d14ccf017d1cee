"""`verify`: tables computed again from the records, and compared."""
