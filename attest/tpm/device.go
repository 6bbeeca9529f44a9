package tpm

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var (
	// ErrDevice means the TPM cannot be reached or does not answer as a TPM. Check
	// the path, that the process may open it, and that nothing else holds it:
	// /dev/tpmrm0 can be shared, /dev/tpm0 cannot.
	ErrDevice = errors.New("TPM device")

	// ErrHierarchyAuth means somebody set a password on the owner or endorsement
	// hierarchy of this TPM. Bailiwick uses both without one: clear it (tpm2_changeauth).
	ErrHierarchyAuth = errors.New("TPM hierarchy needs a password bailiwick does not have")

	// ErrLockout means the TPM refuses authorizations after too many wrong ones.
	// Wait for its recovery time or run tpm2_dictionarylockout --clear-lockout.
	ErrLockout = errors.New("TPM is in dictionary attack lockout")
)

// Device is one TPM. Its methods may be called concurrently; each runs as one
// sequence that no other use of the TPM through a Device interrupts. Create
// devices with Open.
type Device struct {
	path string

	mu   sync.Mutex // held for one whole sequence: as long as the TPM takes, up to seconds
	link link       // nil after Close
}

// link carries commands to a TPM and answers back.
type link interface {
	// hold keeps other processes away from a TPM without a resource manager, and
	// returns what lets them in again.
	hold() (release func(), err error)
	Send(command []byte) (response []byte, err error)
	Close() error
}

// Open opens a TPM: a character device ("/dev/tpmrm0"), "unix:PATH" or
// "tcp:HOST:PORT". It asks the TPM a question, so that a wrong path is found
// here, and flushes what a process that died left in the TPM's slots. Errors are
// ErrDevice.
func Open(path string) (*Device, error) {
	l, err := openLink(path)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrDevice, path, err)
	}
	d := &Device{path: path, link: resender{l, path}}
	if err := d.Exclusive(flushStale); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return d, nil
}

// Path returns what Open was given.
func (d *Device) Path() string { return d.path }

// Close waits for the running sequence and closes the device. Later calls fail
// with ErrDevice.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return nil
	}
	l := d.link
	d.link = nil
	return l.Close()
}

// Exclusive runs one sequence of commands. It is for this package and those
// below it, the only ones that know the TPM command set. fn must flush what it
// loads; it runs a second time if the slots were full of what others left.
func (d *Device) Exclusive(fn func(t transport.TPM) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == nil {
		return fmt.Errorf("%w %s: closed", ErrDevice, d.path)
	}
	release, err := d.link.hold()
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrDevice, d.path, err)
	}
	defer release()
	err = fn(d.link)
	if errors.Is(err, tpm2.TPMRCObjectMemory) || errors.Is(err, tpm2.TPMRCSessionMemory) {
		if err = flushStale(d.link); err == nil {
			err = fn(d.link)
		}
	}
	return d.explain(err)
}

// explain adds the cause an operator can act on.
func (d *Device) explain(err error) error {
	var rc tpm2.TPMRC
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%w: %s: %w", ErrLockout, d.path, err)
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("%w: %s: %w", ErrHierarchyAuth, d.path, err)
	case errors.As(err, &rc):
		return fmt.Errorf("TPM %s: %w", d.path, err)
	default:
		return err
	}
}

// resender repeats a command while the TPM says it has no time for it, which
// real TPMs and swtpm do and go-tpm leaves to the caller.
type resender struct {
	link
	path string
}

const (
	firstPause = time.Millisecond
	longPause  = 500 * time.Millisecond
	patience   = 30 * time.Second // a discrete TPM's self test takes seconds
)

// Send sends command until the TPM takes it or patience ends; then the last
// answer is returned as it is.
func (r resender) Send(command []byte) ([]byte, error) {
	pause := firstPause
	for waited := time.Duration(0); ; waited += pause {
		response, err := r.link.Send(command)
		if err != nil {
			return nil, fmt.Errorf("%w %s: %w", ErrDevice, r.path, err)
		}
		if waited > patience {
			return response, nil
		}
		switch responseCode(response) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
			pause = min(2*pause, longPause)
			time.Sleep(pause)
		default:
			return response, nil
		}
	}
}

// flushStale empties the transient slots and the loaded sessions. Under a
// resource manager both are always empty when a sequence starts.
func flushStale(t transport.TPM) error {
	const (
		transient  = 0x80000000
		sessions   = 0x02000000 // loaded sessions, of any type
		handleType = 0xff000000
		most       = 64
	)
	for _, first := range []uint32{transient, sessions} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: most}.Execute(t)
		if err != nil {
			return err
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		for _, h := range handles.Handle {
			if uint32(h)&handleType == transient || first == sessions {
				if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
