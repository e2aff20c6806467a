package Shape;
use strict;
use warnings;

my $count = 0;

sub new {
    my ($class, $width, $height) = @_;
    $count++;
    return bless { width => $width, height => $height }, $class;
}

sub area {
    my $self = shift;
    return $self->{width} * $self->{height};
}

sub compare {
    my ($left, $right) = @_;
    if ($left->area > $right->area) {
        return 1;
    } elsif ($left->area < $right->area) {
        return -1;
    }
    return 0;
}

1;
