// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"builder/image"
)

const epochArg = "SOURCE_DATE_EPOCH"

// resolveEpoch finds the time of SOURCE_DATE_EPOCH: a build argument or the
// default of a global ARG, in seconds since 1970, or "context" or the name of
// a named context, whose own time it then is. The ARG then has the seconds as
// its value, and none where there is no time.
func (p *plan) resolveEpoch(ctx context.Context) error {
	value, given := p.opts.Args[epochArg]
	if !given {
		value, _ = p.args.Get(epochArg)
	}
	if value != "" {
		at, err := p.epochOf(ctx, value)
		if err != nil {
			return p.file.At(nil, fmt.Errorf("%s=%q: %w", epochArg, value, err))
		}
		p.opts.Epoch = at
	}
	if p.opts.Edits.Timestamp != nil {
		p.opts.Epoch = p.opts.Edits.Timestamp
	}
	text := ""
	if p.opts.Epoch != nil {
		text = strconv.FormatInt(p.opts.Epoch.Unix(), 10)
	}
	if given {
		p.opts.Args = maps.Clone(p.opts.Args)
		p.opts.Args[epochArg] = text
		if text == "" {
			delete(p.opts.Args, epochArg)
		}
	}
	if _, ok := p.args.Get(epochArg); ok {
		p.args.Set(epochArg, text)
	}
	p.opts.Images = slices.Clone(p.opts.Images)
	for i := range p.opts.Images {
		p.opts.Images[i].Layer.Epoch, p.opts.Images[i].Layer.Time = p.opts.Epoch, p.opts.Edits.Timestamp
	}
	return nil
}

// epochOf is the time that a value stands for, nil for none.
func (p *plan) epochOf(ctx context.Context, value string) (*time.Time, error) {
	if sec, err := strconv.ParseInt(value, 10, 64); err == nil && sec >= 0 {
		t := time.Unix(sec, 0).UTC()
		return &t, nil
	}
	if value == "context" {
		return p.opts.ContextTime, nil
	}
	if open := p.namedContext(value, image.HostPlatform()); open != nil {
		src, err := open(ctx, image.HostPlatform())
		return src.Time, err
	}
	return nil, fmt.Errorf("want seconds since 1970, \"context\", or the name of a named context")
}
