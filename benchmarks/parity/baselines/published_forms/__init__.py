"""Forms of published methods that no part here has, written from their description to check it against recordings."""
