package main

import (
	"fmt"
	"io"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// custodyTable is who keeps whose trail, by what the owners heard, and what each node keeps.
func custodyTable(w io.Writer, got []*controlv1.StatusResponse) {
	var kept, holds [][]string
	for _, s := range got {
		c := s.GetSelf().GetTrail().GetCustody()
		if c == nil {
			continue
		}
		for _, k := range c.Custodians {
			heard, state := "never", "whole"
			if k.Heard != nil {
				heard = output.Span(s.View.AsOf.AsTime().Sub(k.Heard.AsTime()).Round(time.Second)) + " ago"
			}
			switch {
			case k.Trouble != "":
				state = k.Trouble
			case !k.Whole:
				state = "not yet"
			}
			kept = append(kept, []string{shortID(s.Self.SpiffeId), shortID(k.SpiffeId), fmt.Sprintf("%d/%d", k.Epoch, k.Leaves), fmt.Sprint(k.Behind), heard, state})
		}
		var leaves uint64
		var files uint32
		for _, h := range c.Holds {
			leaves, files = leaves+h.Leaves, files+h.Files
		}
		holds = append(holds, []string{shortID(s.Self.SpiffeId), fmt.Sprint(len(c.Holds)), fmt.Sprint(leaves), fmt.Sprint(files), fmt.Sprintf("%.1f of %.0f MiB", float64(c.UsedBytes)/(1<<20), float64(c.MaxBytes)/(1<<20))})
	}
	if len(kept) > 0 {
		fmt.Fprintln(w)
		output.Columns(w, "TRAIL_OF CUSTODIAN EPOCH/LEAVES BEHIND HEARD COPY", kept)
	}
	if len(holds) > 0 {
		fmt.Fprintln(w)
		output.Columns(w, "CUSTODIAN TRAILS LEAVES FILES ROOM", holds)
	}
}
