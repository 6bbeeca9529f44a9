package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// object is a key that is in the TPM only while it is used. Its fields after
// build are guarded by the Device: touched only inside Exclusive. A public area
// known beforehand is expected of build.
type object struct {
	// build puts the key into a slot the long way, and may be called again after
	// every reset of the TPM. It leaves nothing else behind.
	build func(t transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error)

	public *tpm2.TPMTPublic
	name   tpm2.TPM2BName
	saved  *tpm2.TPMSContext // quick way in, until the next reset
}

// use loads the key, gives it to fn, and flushes it.
func (o *object) use(t transport.TPM, fn func(key tpm2.NamedHandle) error) (err error) {
	handle, err := o.load(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flush(t, handle)) }()
	return fn(tpm2.NamedHandle{Handle: handle, Name: o.name})
}

func (o *object) load(t transport.TPM) (tpm2.TPMHandle, error) {
	if o.saved != nil {
		rsp, err := tpm2.ContextLoad{Context: *o.saved}.Execute(t)
		if err == nil {
			return rsp.LoadedHandle, nil
		}
		var rc tpm2.TPMRC
		if !errors.As(err, &rc) || errors.Is(err, tpm2.TPMRCObjectMemory) {
			return 0, err
		}
		o.saved = nil // the TPM was reset since
	}
	handle, public, err := o.build(t)
	if err != nil {
		return 0, err
	}
	if err := o.adopt(t, handle, public); err != nil {
		return 0, errors.Join(err, flush(t, handle))
	}
	return handle, nil
}

// adopt remembers a key that build has just loaded.
func (o *object) adopt(t transport.TPM, handle tpm2.TPMHandle, public *tpm2.TPMTPublic) error {
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return err
	}
	if o.public != nil && !bytes.Equal(name.Buffer, o.name.Buffer) {
		return fmt.Errorf("%w: the TPM makes another key than before, or than its certificate names", ErrOtherTPM)
	}
	o.public, o.name = public, *name
	if !isTransient(handle) {
		return nil
	}
	rsp, err := tpm2.ContextSave{SaveHandle: handle}.Execute(t)
	if err != nil {
		return err
	}
	o.saved = &rsp.Context
	return nil
}

func isTransient(h tpm2.TPMHandle) bool { return h>>24 == 0x80 }

// flush empties a slot; persistent keys stay where they are.
func flush(t transport.TPM, h tpm2.TPMHandle) error {
	if !isTransient(h) {
		return nil
	}
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(t)
	return err
}

// primary builds the one key that a template stands for in a hierarchy.
func primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) func(transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
	return func(t transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(t)
		if err != nil {
			return 0, nil, err
		}
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			return 0, nil, errors.Join(err, flush(t, rsp.ObjectHandle))
		}
		return rsp.ObjectHandle, public, nil
	}
}

// endorsement builds an EK: it uses the one of that name that is kept in the TPM, if
// there is one, for making an RSA key takes a discrete TPM up to a minute.
func endorsement(template tpm2.TPMTPublic, name tpm2.TPM2BName) func(transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
	return func(t transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
		for _, kept := range persistentEKs {
			rsp, err := tpm2.ReadPublic{ObjectHandle: kept}.Execute(t)
			if err != nil || !bytes.Equal(rsp.Name.Buffer, name.Buffer) {
				continue
			}
			public, err := rsp.OutPublic.Contents()
			return kept, public, err
		}
		return primary(tpm2.TPMRHEndorsement, template)(t)
	}
}

// child builds a key from its wrapped blob, under a parent that is flushed again.
func child(parent *object, b blob) func(transport.TPM) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
	return func(t transport.TPM) (handle tpm2.TPMHandle, public *tpm2.TPMTPublic, err error) {
		err = parent.use(t, func(p tpm2.NamedHandle) error {
			rsp, err := tpm2.Load{ParentHandle: p, InPrivate: b.private, InPublic: b.public}.Execute(t)
			if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCSize) {
				return fmt.Errorf("%w: %w", ErrOtherTPM, err)
			}
			if err != nil {
				return err
			}
			handle = rsp.ObjectHandle
			return nil
		})
		if err != nil {
			return 0, nil, err
		}
		public, err = b.public.Contents()
		return handle, public, err
	}
}
