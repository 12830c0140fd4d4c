∂
74à
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
"10.78.0.0/242240.240.0.0/16:2001:2::/48BdefaultBshopJshop.examplemesh"%type.googleapis.com/leno.mesh.v1.Mesh£
74Ó
f56f17452c6432c737af2309Ø
,type.googleapis.com/leno.mesh.v1.OwnWorkload
 918011a0567e99460c6344d70fc1002cdefaultcaller-9180"*spiffe://default.leno/ns/default/sa/caller2default/caller:	10.78.0.3 918011a0567e99460c6344d70fc1002c",type.googleapis.com/leno.mesh.v1.OwnWorkloadï
74Œ
926391dc638f9900e0042ce2ü
,type.googleapis.com/leno.mesh.v1.DestinationÓ
Î
default/cart240.240.73.1322001:2::4984
Phttp"ö
_
	HTTPRoutedefaultcart"$e02a59d0-a603-4399-b450-01c483570287(2spec.rules[0]:docs.yaml:17/v20
default/cartP	*spec.rules[0].backendRefs[0]"ì
_
	HTTPRoutedefaultcart"$e02a59d0-a603-4399-b450-01c483570287(2spec.rules[1]:docs.yaml:190
default/cartP*spec.rules[1].backendRefs[0]svc/default/cart",type.googleapis.com/leno.mesh.v1.Destination2svc/default/cartµ
74
7d559bd42677012097227a70¡
*type.googleapis.com/leno.mesh.v1.Endpointsí
default/cartÅ
 be7f9de7a39902e009a39cbe036b24b1	cart-be7fdefault"(spiffe://default.leno/ns/default/sa/cart*v12	10.78.0.2:Pê?H†uRcartsvc/default/cart"*type.googleapis.com/leno.mesh.v1.Endpoints2svc/default/cart