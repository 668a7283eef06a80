"""Step 4: convert a backbone to another precision, and compare it with fp32."""
