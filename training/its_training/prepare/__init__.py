"""`its-train prepare`: from a data set to matched arms."""
