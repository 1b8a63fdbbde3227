"""Projectors: map every patch to another width in front of the readers, such as LLaVA's."""
