"""What a Ddfile is made of, and loading one."""
