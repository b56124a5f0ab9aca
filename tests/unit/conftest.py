from tests.tls import one_tls_context

__all__ = ["one_tls_context"]
