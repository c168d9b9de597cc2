"""The import-linter contract "this package imports only those of the project", on direct imports.

The built-in `forbidden` type needs a list of everything else, which the next new module would slip past.
"""

from __future__ import annotations

from typing import cast

import grimp
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """Of the project's own modules, `source` may import itself and `may_import`, each with all below it."""

    source = fields.StringField()
    may_import = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Find every direct import that is not allowed."""
        allowed = [str(self.source), *cast("list[str]", self.may_import or [])]
        roots = {root.partition(".")[0] for root in self.session_options["root_packages"]}
        found = [
            (importer, imported)
            for importer in sorted(_below(str(self.source), graph.modules))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.partition(".")[0] in roots and not any(_is_below(imported, package) for package in allowed)
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each import that is not allowed."""
        for importer, imported in check.metadata["found"]:
            output.print_error(f"{importer} is not allowed to import {imported}")
        output.new_line()


def _is_below(module: str, package: str) -> bool:
    """Say whether `module` is `package` or lies in it."""
    return module == package or module.startswith(package + ".")


def _below(package: str, modules: set[str]) -> list[str]:
    """Return the modules of `package`, itself among them."""
    return [module for module in modules if _is_below(module, package)]
