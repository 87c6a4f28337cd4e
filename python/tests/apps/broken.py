"""An application with a typing error."""

import no_such_module  # noqa: F401
