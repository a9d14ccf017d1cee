"""What a user wrote, as frozen values with pinned sources."""
