"""Pictures of the records of a refinement, and of molecules: text, SVG, HTML and PNG."""
