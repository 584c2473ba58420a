"""What people see of the sandbox: its front page, and the result files."""
