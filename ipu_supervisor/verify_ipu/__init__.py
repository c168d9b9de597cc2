"""`python -m ipu_supervisor.verify_ipu`: what docs/ipu.md could not be sure of without an IPU, checked on one."""
