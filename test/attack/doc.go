// Package attack holds one test for each way to attack a fleet that we know of. A
// hostile client with the real keys of a member (or of a stranger, or of another
// region) is on the wire, and the honest nodes around it must not be harmed.
//
// # An attack
//
// Attacks on trails have a package of their own, cmd/internal/audit/attack; what follows
// of checks is so there too.
//
// An attack is a function of a fleet, and runs twice: simulated, where the real stack
// (QUIC, TLS, sessions, serf, stores) runs in virtual time over a simulated network,
// and on loopback, over real sockets in real time. There it never asks how soon something
// comes: the machine may be busy, and virtual time shows that. Where an attack takes minutes,
// as of a certificate that ends, its loopback run keeps what is hostile on the wire, and the
// test says which part is virtual only. Some subtests are one more case of an attack that is
// on both networks beside them, as most of what serf could believe; they are simulated only.
//
// The fleet is a few honest nodes that are wired as package app wires them: link,
// replica, roster, and standing from faults and findings. The client (hostile) is
// quic-go and a TLS key: it can send any byte. A test lets it, and then asks
//
//   - fleet.unharmed: every honest node still writes, all see it within a second or
//     two (on loopback, where the machine may be busy, a minute), frontiers are equal, no honest node is accused or held by another or
//     thought to have failed, and memory and goroutines are where they were;
//   - that the one to blame is: its session or link ended, or it is held, or
//     convicted by the right class.
//
// # Checks
//
// Whatever stops an attack carries a marker in the code, on the line above an if
// statement, a case of a switch that has no tag, or a whole statement:
//
//	//bailiwick:check TestForgedSignature
//	if err := rec.Verify(l.key); err != nil {
//
// It may name several tests, and a subtest as TestX/name. Where nothing is left when a
// check is left out, as of a return, the marker ends with what to put in its place,
// behind the word instead. `make mutate` takes the marked
// checks out, one at a time (a condition becomes false, another statement is left
// out), and demands that each test named then fails, simulated. So a check that is
// lost by accident is found, and a test that shows nothing is too. TestMarkers keeps
// markers and attacks in step: every attack has a check, every check an attack.
//
// To add an attack: write TestX here by what is there; see it fail without the check
// that should stop it; mark the check with its name; run
//
//	make mutate CHECK=TestX
//
// Where two checks stop one attack, each has its own test, or subtest, that only it
// stops. What is not a guard cannot be marked: say in the test what stops it.
package attack
