// Package authz answers the questions of neighbours that have an authorization
// protocol of their own: Envoy's ext_authz v3 (gRPC) and AuthZEN 1.0 (JSON over HTTP).
//
// It turns a question into a Question, has it decided by the engine that decides
// everything else, and turns the decision into the protocol's answer. It judges
// nothing itself, and knows no policy. Each listener is off unless configured, and is a
// unix socket or a loopback port.
//
// # Who is asked about
//
// A Question's Subject is never what a header says. It is
//
//	ext_authz   source.principal, which Envoy takes from the certificate that its peer
//	            proved to have; without one, the program that asks
//	AuthZEN     subject.id; without one, the program that asks
//
// So the answer is as good as the word of who asks, and whoever asks about others than
// itself must be allowed to (Decider): otherwise anyone could find out what anyone may
// do. Envoy must verify its peers (a validation context with require_client_certificate,
// such as its SDS secrets from this node): source.principal is empty without. Header
// x-forwarded-client-cert is never read and cannot be among the headers that policy sees.
//
// A certificate does not say on which node its workload runs. So policy sees no
// attestation and no standing of a subject that is not on this node.
//
// # What it is about
//
// The service is named by the proxy's own configuration (the context extension
// "service" of the route) or by ours (Config.Service), never by the request: its host
// is the client's to choose. An HTTP request is decided as kind request, what is not one
// as kind connect.
//
// Only a path with one reading is decided: no empty segment and none of dots and
// spaces, no hash, no encoded slash or question mark, no backslash, semicolon or control
// character. All others are denied. A slash at the end does not count, nor do the port,
// the case and a dot at the end of the host, of at most 255 bytes. The method is taken as
// sent, headers by the configured list.
//
// # What always holds
//
//   - Every question is answered by yes or no. A question that is malformed, or that
//     cannot be recorded, is answered by no and not by an error of the protocol: a proxy
//     may be configured to let through what fails.
//   - A node that cannot decide yet says no at once (RuleNotReady) and why: 503 to Envoy's client.
//   - Answers name the stage and the decision's ID, which bailiwick why explains to who
//     may ask it, and the title, owner and labels that a rule's author wrote for those whom it
//     refuses; they do not name rules or what was asked of others. Envoy gets these
//     for its log (dynamic metadata), not for its clients.
//   - A question that policy is not asked is on record as its asker's, whomever it names.
//     60 a minute of one user are recorded each; the rest is answered with the ID of one
//     record that says so, and counted (bailiwick_authz_refusals_not_recorded_total).
//   - AuthZEN's names are compared exactly. A name that is there twice, or again in another
//     case, is an error of the request; so are two headers of one name.
//   - AuthZEN takes JSON only, so that a page in a browser cannot ask.
//   - Messages are bounded: 1 MiB from Envoy, 256 KiB and 256 evaluations from AuthZEN.
package authz
