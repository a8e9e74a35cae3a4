"""Earlier releases of KServe, each with its own controller, CRDs and webhooks."""
