"""The board: what people see."""
