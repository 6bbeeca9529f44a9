package maker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
)

// NV indices of certificates (TCG EK Credential Profile 2.6 §2.2.1.4 and §2.2.1.5).
const (
	ekCertificateIndex = tpm2.TPMHandle(0x01c00002)
	ekChainIndex       = tpm2.TPMHandle(0x01c00100)
)

// endorse makes the EK, certifies it, and leaves the certificates in the TPM.
func endorse(d *tpm.Device, ca *CA) error {
	return d.Exclusive(func(t transport.TPM) error {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(t)
		if err != nil {
			return fmt.Errorf("make EK: %w", err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(t); err != nil {
			return err
		}
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			return err
		}
		key, err := tpm2.Pub(*public)
		if err != nil {
			return err
		}
		cert, err := ca.certifyEK(key)
		if err != nil {
			return fmt.Errorf("certify EK: %w", err)
		}
		return errors.Join(
			writeNV(t, ekCertificateIndex, cert),
			writeNV(t, ekChainIndex, ca.intermediate.Raw),
		)
	})
}

// writeNV defines an index as makers do, readable by anybody and writable by the
// platform, and fills it.
func writeNV(t transport.TPM, index tpm2.TPMHandle, content []byte) error {
	const chunk = 512
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	define := tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PPWrite:        true,
			WriteDefine:    true,
			PPRead:         true,
			OwnerRead:      true,
			AuthRead:       true,
			NoDA:           true,
			PlatformCreate: true,
		},
		DataSize: uint16(len(content)),
	})}
	if _, err := define.Execute(t); err != nil {
		return fmt.Errorf("define NV index 0x%08x: %w", uint32(index), err)
	}
	for offset := 0; offset < len(content); offset += chunk {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t) // the first write changes the name
		if err != nil {
			return err
		}
		write := tpm2.NVWrite{
			AuthHandle: platform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: content[offset:min(offset+chunk, len(content))]},
			Offset:     uint16(offset),
		}
		if _, err := write.Execute(t); err != nil {
			return fmt.Errorf("write NV index 0x%08x: %w", uint32(index), err)
		}
	}
	return nil
}

// onlySHA256 keeps the SHA-256 bank of PCRs from the next power-up on: a bank that
// nobody measures into could be filled by anybody. go-tpm does not know the command
// (TPM2_PCR_Allocate, TPM 2.0 Part 3 §22.5), so it is spelled out.
func onlySHA256(d *tpm.Device) error {
	all, none := []byte{255, 255, 255}, []byte{0, 0, 0}
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA1, PCRSelect: none},
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: all},
		{Hash: tpm2.TPMAlgSHA384, PCRSelect: none},
		{Hash: tpm2.TPMAlgSHA512, PCRSelect: none},
	}}
	const password = 0x40000009 // TPM_RS_PW
	auth := binary.BigEndian.AppendUint32(nil, password)
	auth = append(auth, 0, 0, 0, 0, 0) // no nonce, no attributes, no password
	body := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHPlatform))
	body = binary.BigEndian.AppendUint32(body, uint32(len(auth)))
	body = append(body, auth...)
	body = append(body, tpm2.Marshal(selection)...)
	command := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	command = binary.BigEndian.AppendUint32(command, uint32(10+len(body)))
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMCCPCRAllocate))
	command = append(command, body...)
	return d.Exclusive(func(t transport.TPM) error {
		response, err := t.Send(command)
		if err != nil {
			return err
		}
		if rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); rc != tpm2.TPMRCSuccess {
			return rc
		}
		const done = 14 // after header and parameter size: TPMI_YES_NO
		if len(response) <= done || response[done] != 1 {
			return errors.New("the TPM has no room for the bank")
		}
		return nil
	})
}

// startChild starts cmd on a thread that lives until the child is gone: the kernel
// sends the death signal when the thread that forked ends, not the process.
func startChild(cmd *exec.Cmd) (exited chan struct{}, err error) {
	started := make(chan error)
	exited = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log; that it ended is what we tell
			close(exited)
		}
	}()
	return exited, <-started
}
