"""Tensor functions and component arguments that every other room builds on."""
