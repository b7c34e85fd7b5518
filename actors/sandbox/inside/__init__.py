"""What runs inside a sandbox. Imports nothing of trace_ray: these files are copied into the runtime tree."""
