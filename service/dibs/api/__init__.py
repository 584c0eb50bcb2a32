"""The HTTP edge: parsing, calls of acts, responses. It has no rules about claims."""
