"""Tools for a person who looks at data: what training sees of one record, and what is wrong with all of them."""
