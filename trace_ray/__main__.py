"""`python -m trace_ray`: the same as `trace-ray`."""

from trace_ray.cli import main

if __name__ == "__main__":
    main()
