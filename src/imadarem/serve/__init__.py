"""The models over HTTP: ``imadarem serve``.

``app`` has the routes, ``endpoints`` what they do, ``worker`` the one thread that runs the models,
``connection`` and ``request_guard`` the checks before a route. Importing this package imports
neither torch nor a web framework.
"""

from __future__ import annotations
