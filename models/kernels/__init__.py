"""What a GPU computes with in place of plain operators, and what a kernel has to show first."""
