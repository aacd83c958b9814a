package httpapi

import (
	"context"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/httpapi/gen"
)

// GetNetworkLog reads a page of what a sandbox reached.
func (h handlers) GetNetworkLog(ctx context.Context, req gen.GetNetworkLogRequestObject) (gen.GetNetworkLogResponseObject, error) {
	id, err := pathID(req.ID)
	if err != nil {
		return nil, err
	}
	log, err := networkLogRequest(req.Params)
	if err != nil {
		return nil, err
	}
	page, err := h.s.service.NetworkLog(ctx, infoOf(ctx).who, id, log)
	if err != nil {
		return nil, err
	}
	out := gen.GetNetworkLog200JSONResponse{Data: []gen.NetworkLogRow{}, NextCursor: page.Next, HasMore: page.Next != ""}
	for _, row := range page.Rows {
		out.Data = append(out.Data, toNetworkLogRow(row))
	}
	return out, nil
}

// networkLogRequest checks what only the wire can get wrong: a parameter that is there and says nothing.
func networkLogRequest(p gen.GetNetworkLogParams) (req control.NetworkLogRequest, err error) {
	if p.Limit != nil {
		if req.Limit = *p.Limit; req.Limit < 1 || req.Limit > maxLimit {
			return req, badRequest("limit must be a number from 1 to %d", maxLimit)
		}
	}
	text := func(name string, value *string) string {
		if value != nil && *value == "" && err == nil {
			err = badRequest("%s must not be empty", name)
		}
		if value == nil {
			return ""
		}
		return *value
	}
	req.Before, req.Since = text("before", p.Before), text("since", p.Since)
	req.Verdict = text("verdict", (*string)(p.Verdict))
	return req, err
}

func toNetworkLogRow(row *control.NetworkLogRow) gen.NetworkLogRow {
	out := gen.NetworkLogRow{
		ID: row.Number, Kind: gen.NetworkLogRowKind(row.Kind), TS: timestamp(row.Time), Host: row.Host, DstPort: int(row.DstPort),
		Protocol: string(row.Protocol), Verdict: gen.NetworkVerdict(row.Verdict), MatchRule: row.MatchRule,
		BytesSent: row.BytesSent, BytesRecv: row.BytesRecv,
	}
	if row.DstIP.IsValid() {
		out.DstIP = row.DstIP.String()
	}
	if row.Count != 1 {
		out.Count = &row.Count
	}
	return out
}
