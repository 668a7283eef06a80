"""From a drift alert to a request for retraining, filed once, with evidence. Deploys nothing."""
