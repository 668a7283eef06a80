"""File a request for retraining, once and with evidence, for a drift alert. Deploys nothing."""
