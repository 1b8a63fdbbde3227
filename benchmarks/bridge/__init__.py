"""Speed and memory of the memory bridges beside the published one."""
