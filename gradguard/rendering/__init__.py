"""What a report looks like: one file per form. Everything here reads plain data and returns text."""
