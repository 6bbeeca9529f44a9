package app

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

// ExportDevID makes a DevID key in this node's TPM and has the region's issuer
// certify it.
func (h handler) ExportDevID(ctx context.Context, _ *controlv1.ExportDevIDRequest) (*controlv1.ExportDevIDResponse, error) {
	switch {
	case !h.machine.Attested():
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this node uses no TPM: a DevID is a key in one"))
	case !h.creds.Admitted():
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this node has no identity now: its issuer certifies DevIDs of nodes it knows"))
	}
	if err := h.machine.Keys().CanDevID(); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if err := h.admin(ctx, "devid export", map[string]any{}); err != nil {
		return nil, err
	}
	key, err := h.machine.Keys().NewDevID()
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	resp := &controlv1.ExportDevIDResponse{Device: stockDevice(h.cfg.TPM.Device)}
	resp.Public, resp.Private = key.Files()
	if resp.Chain, resp.Authority, err = h.creds.CertifyDevID(ctx, key); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	resp.View = h.view(ctx)
	return resp, nil
}

// stockDevice is what spire-agent takes for tpm_device_path: a path.
func stockDevice(device string) string {
	if path, ok := strings.CutPrefix(device, "unix:"); ok {
		return path
	}
	if strings.HasPrefix(device, "/") {
		return device
	}
	return ""
}
