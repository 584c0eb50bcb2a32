"""The board: claims as people see them, at first paint and from then on as they change."""
