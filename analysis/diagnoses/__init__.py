"""`diagnose`: further tables about why a cell is calibrated as it is."""
