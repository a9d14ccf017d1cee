"""One self-contained page: dashboard.html."""
