"""Bundles of untrusted handlers: a zip and a signed statement of what is in it. Nothing here runs one."""
