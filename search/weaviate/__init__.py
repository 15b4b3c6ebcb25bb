"""The index in Weaviate; the only place that imports its library, and only when it is configured.

The library imports a part of authlib that is of no use here and warns, whoever has asked for warnings or not, that it
will move to another HTTP library.
"""

import warnings

with warnings.catch_warnings():
    from authlib.deprecate import AuthlibDeprecationWarning

    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    import weaviate as weaviate
