package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Counters are the two numbers of a TPM that only grow. A new TPM starts them
// anywhere, never below what it counted before.
type Counters struct {
	Starts uint64 // starts of the node
	Epoch  uint64 // epochs of its feed
}

// The indices of the counters, in the range the TCG leaves to the owner (Registry
// of Reserved TPM 2.0 Handles §2.2.3).
const (
	startsIndex = tpm2.TPMHandle(0x01b11c01)
	epochIndex  = tpm2.TPMHandle(0x01b11c02)
	counterSize = 8
)

// counterPublic is the public area of a counter that was counted at least once.
// Its hash is the index's name, so the verifier knows what certification it must
// see: any other attribute is another name.
func counterPublic(index tpm2.TPMHandle) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			OwnerWrite: true,
			AuthWrite:  true,
			NT:         tpm2.TPMNTCounter,
			OwnerRead:  true,
			AuthRead:   true,
			NoDA:       true,
			Written:    true,
		},
		DataSize: counterSize,
	}
}

func counterName(index tpm2.TPMHandle) (tpm2.TPM2BName, error) {
	public := counterPublic(index)
	name, err := tpm2.NVName(&public)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return *name, nil
}

// ErrCounter means the NV index of a counter holds something else. Free it with
// tpm2_nvundefine.
var ErrCounter = errors.New("NV index of a counter is taken")

// errNoIndex means an NV index is not defined.
var errNoIndex = errors.New("NV index is not defined")

// Counters reads both counters, and makes them on first use. Making needs the
// owner hierarchy without a password (ErrHierarchyAuth).
func (d *Device) Counters() (c Counters, err error) {
	err = d.Exclusive(func(t transport.TPM) error {
		if c.Starts, err = readCounter(t, startsIndex); err != nil {
			return err
		}
		c.Epoch, err = readCounter(t, epochIndex)
		return err
	})
	return c, err
}

// BumpStarts counts one start of the node and returns the new number. It is on
// NV memory when the call returns; TPMs endure some 100000 such writes.
func (d *Device) BumpStarts() (uint64, error) { return d.bump(startsIndex) }

// BumpEpoch counts one epoch of the node's feed and returns the new number.
func (d *Device) BumpEpoch() (uint64, error) { return d.bump(epochIndex) }

func (d *Device) bump(index tpm2.TPMHandle) (n uint64, err error) {
	err = d.Exclusive(func(t transport.TPM) error {
		made, err := makeCounter(t, index)
		if err != nil {
			return err
		}
		if !made { // a new counter was counted once already
			if err := increment(t, counterPublic(index)); err != nil {
				return err
			}
		}
		n, err = count(t, index)
		return err
	})
	return n, err
}

// makeCounter defines the counter and counts once, so that it has a value. made
// is false if it was there. Afterwards its public area is counterPublic.
func makeCounter(t transport.TPM, index tpm2.TPMHandle) (made bool, err error) {
	want := counterPublic(index)
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err == nil {
		public, err := rsp.NVPublic.Contents()
		if err != nil {
			return false, err
		}
		written := public.Attributes.Written
		public.Attributes.Written = true
		if string(tpm2.Marshal(public)) != string(tpm2.Marshal(want)) {
			return false, fmt.Errorf("%w: 0x%08x", ErrCounter, uint32(index))
		}
		if written {
			return false, nil
		}
		want.Attributes.Written = false
		return true, increment(t, want)
	}
	if !errors.Is(err, tpm2.TPMRCHandle) {
		return false, err
	}
	want.Attributes.Written = false
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(want)}).Execute(t); err != nil {
		return false, fmt.Errorf("define counter 0x%08x: %w", uint32(index), err)
	}
	return true, increment(t, want)
}

// increment counts once. The public area is the counter's before that.
func increment(t transport.TPM, public tpm2.TPMSNVPublic) error {
	name, err := tpm2.NVName(&public)
	if err != nil {
		return err
	}
	handle := tpm2.NamedHandle{Handle: public.NVIndex, Name: *name}
	_, err = tpm2.NVIncrement{AuthHandle: withoutPassword(handle), NVIndex: handle}.Execute(t)
	return err
}

func readCounter(t transport.TPM, index tpm2.TPMHandle) (uint64, error) {
	if _, err := makeCounter(t, index); err != nil {
		return 0, err
	}
	return count(t, index)
}

// count reads a counter whose public area is counterPublic: there is no need to ask how
// it is called and how long it is.
func count(t transport.TPM, index tpm2.TPMHandle) (uint64, error) {
	name, err := counterName(index)
	if err != nil {
		return 0, err
	}
	handle := tpm2.NamedHandle{Handle: index, Name: name}
	rsp, err := tpm2.NVRead{AuthHandle: withoutPassword(handle), NVIndex: handle, Size: counterSize}.Execute(t)
	if err != nil {
		return 0, fmt.Errorf("read counter 0x%08x: %w", uint32(index), err)
	}
	if len(rsp.Data.Buffer) != counterSize {
		return 0, fmt.Errorf("%w: 0x%08x has %d bytes", ErrCounter, uint32(index), len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// withoutPassword authorizes the use of a handle whose password is empty.
func withoutPassword(h tpm2.NamedHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(nil)}
}

// readNV reads a whole NV index that anybody may read, or returns errNoIndex.
func readNV(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	const (
		chunk = 512 // every TPM can do this much at once
		most  = 8 << 10
	)
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, errNoIndex
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(public.DataSize)
	if size > most {
		return nil, fmt.Errorf("NV index 0x%08x claims %d bytes", uint32(index), size)
	}
	handle := tpm2.NamedHandle{Handle: index, Name: rsp.NVName}
	var out []byte
	for len(out) < size {
		part, err := tpm2.NVRead{
			AuthHandle: withoutPassword(handle),
			NVIndex:    handle,
			Size:       uint16(min(chunk, size-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("read NV index 0x%08x: %w", uint32(index), err)
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("NV index 0x%08x ends early", uint32(index))
		}
		out = append(out, part.Data.Buffer...)
	}
	return out, nil
}
