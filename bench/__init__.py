"""How fast Pushwright is beside other builders; not part of the product."""
