"""The same protocol over gRPC: the extra `grpc`."""
