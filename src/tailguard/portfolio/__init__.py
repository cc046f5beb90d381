"""Few policies for every risk preference."""
