"""Recipe schemas."""
