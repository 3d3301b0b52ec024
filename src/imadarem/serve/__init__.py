"""The models over HTTP: ``imadarem serve``.

``app`` has the routes, ``worker`` the one thread that owns the models, ``gatekeeper`` what is
looked at before a route is. Importing this package loads neither torch nor a web framework.
"""

from __future__ import annotations
