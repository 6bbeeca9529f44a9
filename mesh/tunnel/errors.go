package tunnel

import (
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

// Errors of this package, mostly as the Cause of a Refusal. Each is one cause an
// operator can act on.
var (
	// ErrPortBusy means another process has a listener's address.
	ErrPortBusy = errors.New("listener address is in use: stop the other process or choose another address")
	// ErrUnknownWorkload means a local process is no workload of this node.
	ErrUnknownWorkload = errors.New("the local process is no known workload: add an entry that matches its selectors")
	// ErrNoService means nobody knows the service by that name.
	ErrNoService = errors.New("no such service: check the name, and that the authority has published it")
	// ErrNoOwner means the service is known and nobody may be asked for it now.
	ErrNoOwner = errors.New("the service has no owner that may be used: check that it runs and the standing of its nodes")
	// ErrUnreachable means every owner was tried in vain; the text has each reason.
	ErrUnreachable = errors.New("no owner of the service could be reached")
	// ErrDenied matches *Denied.
	ErrDenied = errors.New("denied by policy")
	// ErrNodeStatement means the far node did not prove which node it is.
	ErrNodeStatement = errors.New("node statement does not verify")
	// ErrNodeRefused means the far node is proven and not welcome, or not the
	// one that was chosen.
	ErrNodeRefused = errors.New("far node is not accepted")
	// ErrNoTarget means this node does not serve the service, or nothing
	// listens on its address.
	ErrNoTarget = errors.New("the service's target does not answer: start the workload or check the target's address")
	// ErrWrongOwner means a process listens on the target's address that is not
	// the service's workload.
	ErrWrongOwner = errors.New("another process listens on the service's target: check who, with ss -ltnp")
	// ErrBusy means a limit of connections was reached.
	ErrBusy = errors.New("too many connections")
	// ErrFrame means a peer's message is malformed, too large or late.
	ErrFrame = errors.New("malformed message")
	// ErrCut means Cut, Recheck or the end of the process ended the connection.
	ErrCut = errors.New("connection was cut")
)

// Denied is a denial by policy. It matches ErrDenied.
type Denied struct {
	ID, Rule string
	Reason   string // with the owner of the rule, where it has one
	Remote   bool   // the destination denied; ID can be explained there
}

func (d *Denied) Error() string {
	where := "here"
	if d.Remote {
		where = "by the destination"
	}
	return fmt.Sprintf("%s %s: rule %s: %s (decision %s)", ErrDenied, where, d.Rule, d.Reason, d.ID)
}

// Is makes errors.Is(d, ErrDenied) true.
func (d *Denied) Is(target error) bool { return target == ErrDenied }

// label is the cause of a refusal as metrics name it.
func label(err error) string {
	for _, c := range []struct {
		err  error
		name string
	}{
		{ErrDenied, "denied"},
		{ErrUnknownWorkload, "unknown_workload"},
		{ErrNoService, "no_service"},
		{ErrNoOwner, "no_owner"},
		{ErrWrongOwner, "wrong_owner"},
		{ErrNoTarget, "no_target"},
		{ErrNodeStatement, "node_statement"},
		{ErrNodeRefused, "node_refused"},
		{ErrBusy, "busy"},
		{ErrFrame, "frame"},
		{ErrCut, "cut"},
		{caller.ErrUnattributed, "unattributed"},
		{caller.ErrGone, "unattributed"},
		{caller.ErrChanged, "unattributed"},
		{ErrUnreachable, "unreachable"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "other"
}
