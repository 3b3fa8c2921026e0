"""`its-train grid`: every arm asked every way, and what that says."""
