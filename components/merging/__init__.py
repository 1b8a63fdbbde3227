"""The mathematics of merging and clustering that several parts share."""
