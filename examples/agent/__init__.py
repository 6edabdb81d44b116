"""A small coding agent, of the kind that gets wrapped: it knows nothing of telemetry.

It reads a task, asks a model, runs the tools that the model asks for, and repeats until it asks for none.
"""
