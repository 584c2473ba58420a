"""How the sandbox makes its images."""
