"""`python -m its_proxy` is `its-proxy`."""

from its_proxy.cli import main

main(prog_name="its-proxy")
