"""What is shown of an evaluation: page, figures, table, findings."""
