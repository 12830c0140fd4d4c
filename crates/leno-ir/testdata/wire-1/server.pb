∂
65à
c7d5090d8546d6eade3375f5Â
%type.googleapis.com/leno.mesh.v1.Meshª
defaultdefault.lenoŸ-----BEGIN CERTIFICATE-----
MIIB7TCCAZOgAwIBAgIQavUYIvpv3aLRbhBzqgl+UDAKBggqhkjOPQQDAjA0MRsw
GQYDVQQDDBJsZW5vIHJvb3QgNmFmNTE4MjIxFTATBgNVBAoMDGRlZmF1bHQubGVu
bzAeFw0yNjExMjEyMjE1MjVaFw0zNjExMTgyMjIwMjVaMDQxGzAZBgNVBAMMEmxl
bm8gcm9vdCA2YWY1MTgyMjEVMBMGA1UECgwMZGVmYXVsdC5sZW5vMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEt0Ydx27HbijkP9AaojufBNQWdrBWQCoXxlxQenii
X93XLtmKTGh8Me+J+UfD56q+QxgrJczqIARMkgXI8zWxlqOBhjCBgzAfBgNVHSME
GDAWgBRkIaqaPxJm4kVeYc789U92tRX4SzAgBgNVHREEGTAXhhVzcGlmZmU6Ly9k
ZWZhdWx0Lmxlbm8wDgYDVR0PAQH/BAQDAgEGMB0GA1UdDgQWBBRkIaqaPxJm4kVe
Yc789U92tRX4SzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCICYe
Xa/Nc/Wr5fAl6GkQa7MLniLM9uRZI2trF1BV8NeZAiEA/iFJaqyMdldov0Kais6a
v6LmdpJ3EOejHEPyNEDarcs=
-----END CERTIFICATE-----
"10.78.0.0/242240.240.0.0/16:2001:2::/48BdefaultBshopJshop.examplemesh"%type.googleapis.com/leno.mesh.v1.Mesh¥
65ˇ
fff48d63712bc1042129b988¿
,type.googleapis.com/leno.mesh.v1.OwnWorkloadè
 be7f9de7a39902e009a39cbe036b24b1default	cart-be7f"(spiffe://default.leno/ns/default/sa/cart*v12default/cart:	10.78.0.2B,ê?"
default/cartP"
default/cart-v1PR≈+spiffe://default.leno/ns/default/sa/default*spiffe://default.leno/ns/default/sa/caller2j
AccessPolicydefaultcart"$6aea4d14-d275-4f12-b58b-9d30bd20b482(2spec.rules[0].from[0]:docs.yaml:27Rô*spiffe://default.leno/ns/default/sa/caller2i
AccessPolicydefaultdeny"$6e3097f6-c2bf-41a6-9399-08d7f24c627d(2spec.rules[0].from[0]:deny.yaml:4 be7f9de7a39902e009a39cbe036b24b1",type.googleapis.com/leno.mesh.v1.OwnWorkload